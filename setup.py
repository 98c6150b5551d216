"""Packaging of xcit_dense; settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

STARTUP = ["startup/_xcit_dense_startup.py", "startup/xcit_dense.pth"]


class BuildWithStartup(build_py):
    """Puts the start-up files beside the package, into site-packages, for editable installs too.

    MMDetection's own scripts and inferencer need mmcv's operators before they read a config, so before a config can
    import xcit_dense.mm.
    """

    def run(self) -> None:
        """Builds the package and adds the start-up files."""
        super().run()
        # An editable wheel takes nothing from build_lib, only what is installed into it.
        target = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        self.mkpath(target)
        for file in STARTUP:
            self.copy_file(file, target)

    def get_source_files(self) -> list[str]:
        """Names the start-up files for source distributions."""
        return [*super().get_source_files(), *STARTUP]


here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "xcit_dense/__init__.py").read_text())[1]

# MMDetection needs mmcv's Python parts; their compiled operators are optional, and stood in for by torchvision's. None
# of the MM libraries is a hard dependency: a compiled mmcv that is already there must not be overwritten.
mm = [
    "onedl-mmengine>=0.10.8,<0.11",
    "onedl-mmcv>=2.3,<2.4",
    "onedl-mmdetection>=3.4,<4",
    "onedl-mmsegmentation>=1.3,<2",
]
openmmlab = [
    "mmengine>=0.10.4,<0.11",
    "mmcv-lite>=2.1,<2.2",
    "mmdet>=3.3,<4",
    "mmsegmentation>=1.2.2,<2",
    "ftfy",  # imported by mmsegmentation, which does not declare them
    "regex",
]
mm_common = ["matplotlib", "pillow", "pycocotools", "shapely"]
dev = [
    "hypothesis>=6",
    "import-linter>=2",
    "mypy>=1.10",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff>=0.6",
    "tensorboard>=2.15",
]

setup(
    name="xcit_dense",
    version=version,
    description="XCiT for dense prediction: a backbone for MMDetection 3.x and MMSegmentation 1.x",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["xcit_dense", "xcit_dense.*"]),
    cmdclass={"build_py": BuildWithStartup},
    package_data={"xcit_dense": ["py.typed"]},
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "timm>=1.0.3",
        "numpy>=1.24",
        "safetensors>=0.4",
        "packaging>=22",
    ],
    extras_require={"mm": mm + mm_common, "openmmlab": openmmlab + mm_common, "dev": dev},
    classifiers=[
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
