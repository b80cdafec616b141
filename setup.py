from setuptools import setup
from pybind11.setup_helpers import Pybind11Extension
import glob
setup(ext_modules=[Pybind11Extension("clm_kernels._cpu", sorted(glob.glob("csrc/cpu/*.cpp")), cxx_std=17, depends=glob.glob("csrc/cpu/*.h")+glob.glob("csrc/*.h"),
 extra_compile_args="-O3 -fopenmp -Wall -Wextra -Wno-psabi -fno-math-errno -fno-trapping-math -ffp-contract=fast -mprefer-vector-width=512".split(), extra_link_args=["-fopenmp"])], packages=["clm_kernels"], name="clm-kernels")
