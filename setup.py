"""Builds everything in native/ together with the package.

The cffi extension is declared to setuptools as usual; the freestanding engine, the seed and the BPF
object are made by native/Makefile and travel as package data in livecr/native/.
"""

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import ExecError

ROOT = Path(__file__).parent


def make_native() -> None:
    if subprocess.run(["make", "--silent", "-C", str(ROOT / "native")]).returncode:
        raise ExecError("make in native/ failed")


class BuildPy(build_py):
    def run(self) -> None:
        make_native()
        super().run()


class BuildExt(build_ext):
    def run(self) -> None:
        make_native()
        super().run()


setup(
    cffi_modules=["native/build_ffi.py:builder"],
    cmdclass={"build_py": BuildPy, "build_ext": BuildExt},
)
