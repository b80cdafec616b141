"""Builds clm_kernels._cpu, the C++ kernels. All else about the package stands in pyproject.toml.

The kernels are optional: without a working compiler the install succeeds and the reference runs in their place.
CLM_KERNELS_CPU=1 makes a failed build an error; CLM_KERNELS_CPU=0 does not build them.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup
from setuptools.errors import CompileError, LinkError

WANTED = os.environ.get("CLM_KERNELS_CPU", "")
OPTIMIZE = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fno-strict-aliasing", "-Wno-psabi"]
OPENMP_PROGRAM = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"


class BuildKernels(build_ext):
    def build_extension(self, ext):
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
    lines = [
        "rule compile",
        f"  command = {' '.join(map(escape, command))} -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        *(
            f"build {escape(obj)}: compile {escape(os.path.abspath(src))}"
            for obj, src in zip(map(os.path.abspath, objects), sources)
        ),
    ]
    folder = Path(output_dir or ".")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")
    if subprocess.run(["ninja", "-C", str(folder)]).returncode:
        raise CompileError("the compiler failed, see above")
    return objects


def escape(text: str) -> str:
    return text.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


kernels = Pybind11Extension(
    "clm_kernels._cpu",
    sorted(glob("csrc/cpu/*.cpp")),
    depends=sorted(glob("csrc/**/*.h", recursive=True)),
    cxx_std=17,
    optional=WANTED != "1",
)
setup(ext_modules=[] if WANTED == "0" else [kernels], cmdclass={"build_ext": BuildKernels})
