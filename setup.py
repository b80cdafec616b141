"""Builds clm_kernels._cpu and ._cuda, the C++ and CUDA kernels. All else about the package stands in pyproject.toml.

The kernels are optional: without a working compiler the install succeeds and the reference runs in their place.
CLM_KERNELS_CPU=1 makes a failed build an error; CLM_KERNELS_CPU=0 does not build them. CLM_KERNELS_CUDA does the same for
the CUDA kernels; unset or `auto`, they are built where nvcc is found. TORCH_CUDA_ARCH_LIST ("8.0;9.0+PTX") says for which GPUs.
CLM_KERNELS_SANITIZE=1 builds the C++ kernels with AddressSanitizer and UndefinedBehaviorSanitizer, see tests/sanitized.sh.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from glob import glob
from pathlib import Path

import pybind11
from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import Extension, setup
from setuptools.errors import CompileError, LinkError

WANTED = os.environ.get("CLM_KERNELS_CPU", "")
WANTED_CUDA = os.environ.get("CLM_KERNELS_CUDA", "auto")
CUDA_HOME = os.environ.get("CUDA_HOME", "/usr/local/cuda")
NVCC = shutil.which("nvcc", path=os.path.join(CUDA_HOME, "bin")) or shutil.which("nvcc")
OPTIMIZE = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fno-strict-aliasing", "-Wno-psabi"]
SANITIZE = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
OPENMP_PROGRAM = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"


class BuildKernels(build_ext):
    def build_extension(self, ext):
        if ext.name.endswith("._cuda"):
            return build_cuda(ext, Path(self.build_temp, "cuda"), Path(self.get_ext_fullpath(ext.name)))
        msvc = self.compiler.compiler_type == "msvc"
        flags = ["/O2"] if msvc else list(OPTIMIZE)
        if platform.machine() == "x86_64" and sys.platform == "linux":
            flags.append("-mprefer-vector-width=512")  # concerns only what is compiled for AVX-512
        openmp = ["/openmp"] if msvc else ["-fopenmp"]
        try:
            if self._links(OPENMP_PROGRAM, openmp):
                flags += openmp
                ext.extra_link_args += [] if msvc else openmp
            else:
                print("clm_kernels: this compiler has no OpenMP; the C++ kernels will run on one thread")
            if os.environ.get("CLM_KERNELS_SANITIZE") == "1":
                flags += SANITIZE
                ext.extra_link_args += SANITIZE
            ext.extra_compile_args += flags
            if not msvc and shutil.which("ninja"):
                self.compiler.compile = lambda *args, **kwargs: compile_with_ninja(self.compiler, *args, **kwargs)
            super().build_extension(ext)
        except Exception as error:
            print(f"clm_kernels: the C++ kernels were not built, the slower reference runs in their place: {error}")
            raise error if isinstance(error, (CompileError, LinkError)) else CompileError(str(error)) from error

    def _links(self, program: str, flags: list[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.cpp")
            source.write_text(program)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
                self.compiler.link_executable(objects, str(Path(folder, "probe")), extra_postargs=flags, target_lang="c++")
            except (CompileError, LinkError):
                return False
        return True


def compile_with_ninja(compiler, sources, output_dir=None, macros=None, include_dirs=None, debug=0, extra_preargs=None,
                       extra_postargs=None, depends=None):  # fmt: skip
    """As setuptools' own compile, but in parallel, and only what changed, headers included."""
    _, objects, postargs, options, _ = compiler._setup_compile(output_dir, macros, include_dirs, sources, depends, extra_postargs)
    command = [*getattr(compiler, "compiler_so_cxx", compiler.compiler_so), *options, *(extra_preargs or []), *postargs]
    run_ninja(Path(output_dir or "."), compile_lines(command, zip(map(os.path.abspath, objects), sources)))
    return objects


def build_cuda(ext, folder, target):
    """Compiles and links with nvcc, for the GPUs that the toolkit is told of: none need be here."""
    if NVCC is None:
        raise CompileError("CLM_KERNELS_CUDA=1: nvcc not found; install the CUDA toolkit, or set CUDA_HOME")
    if shutil.which("ninja") is None:
        raise CompileError("the CUDA kernels need ninja to be built: pip install ninja")
    includes = [f"-I{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))]
    architectures = [flag for item in architecture_list() for flag in gencode(item)]
    command = [NVCC, "-O3", "-std=c++17", "-cudart", "static", "-Xcompiler", "-fPIC,-fvisibility=hidden,-g0"]
    objects = [(f"{Path(source).name}.o", source) for source in ext.sources]
    target.parent.mkdir(parents=True, exist_ok=True)
    print("clm_kernels: building the CUDA kernels for", *architecture_list())
    run_ninja(folder, [
        *compile_lines([*command, *architectures, *includes], objects),
        f"rule link\n  command = {' '.join(map(escape, command))} -shared $in -o $out",
        f"build {escape(str(target.absolute()))}: link {' '.join(obj for obj, _ in objects)}",
    ])  # fmt: skip


def architecture_list():
    return os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split() or ["8.0", "8.6", "8.9", "9.0+PTX"]


def gencode(item):
    """nvcc's flags for one item of TORCH_CUDA_ARCH_LIST."""
    number = item.removesuffix("+PTX").replace(".", "")
    for code in ("sm", "compute") if item.endswith("+PTX") else ("sm",):
        yield f"-gencode=arch=compute_{number},code={code}_{number}"


def compile_lines(command, objects):
    return [
        "rule compile",
        f"  command = {' '.join(map(escape, command))} -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        *(f"build {escape(obj)}: compile {escape(os.path.abspath(src))}" for obj, src in objects),
    ]


def run_ninja(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")
    if subprocess.run(["ninja", "-C", str(folder)]).returncode:
        raise CompileError("the compiler failed, see above")


def escape(text: str) -> str:
    return text.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


if WANTED_CUDA not in ("0", "1", "auto", ""):
    raise SystemExit(f"setup.py: CLM_KERNELS_CUDA must be 0, 1 or auto, got {WANTED_CUDA!r}")
headers = sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.cuh", recursive=True))
kernels = Pybind11Extension(
    "clm_kernels._cpu", sorted(glob("csrc/cpu/*.cpp")), depends=headers, cxx_std=17, optional=WANTED != "1"
)
cuda = Extension(
    "clm_kernels._cuda", sorted(glob("csrc/cuda/*.cu") + glob("csrc/cuda/*.cpp")), depends=headers, optional=WANTED_CUDA != "1"
)
with_cuda = WANTED_CUDA == "1" or (WANTED_CUDA != "0" and NVCC is not None and sys.platform == "linux")
setup(
    ext_modules=([kernels] if WANTED != "0" else []) + ([cuda] if with_cuda else []),
    cmdclass={"build_ext": BuildKernels},
)
