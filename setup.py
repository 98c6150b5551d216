"""Packaging of xcit_dense. The settings of the development tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

STARTUP = ["startup/_xcit_dense_startup.py", "startup/xcit_dense.pth"]

here = Path(__file__).parent


def mim_files() -> list[str]:
    """Lists what ``mim`` and ``xcit-dense`` look for in an installed package: the configs and the model index."""
    configs = [path for path in (here / "configs").rglob("*") if path.suffix in (".py", ".yml")]
    return ["model-index.yml", *sorted(path.relative_to(here).as_posix() for path in configs)]


class Build(build_py):
    """Adds files that are not in the package's folder.

    The start-up files go next to the package, into site-packages, for editable installs too: MMDetection's own scripts
    and inferencer need mmcv's operators before they read a config, so before a config can import xcit_dense.mm. The
    configs and the model index go to ``xcit_dense/.mim``. An editable install uses those of the clone.
    """

    def run(self) -> None:
        """Builds the package and adds the files."""
        super().run()
        # An editable wheel does not take files from build_lib. It takes what is installed into it.
        target = Path(self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib)
        self.mkpath(str(target))
        for file in STARTUP:
            self.copy_file(file, str(target))
        if not self.editable_mode:
            for file in mim_files():
                copy = target / "xcit_dense" / ".mim" / file
                self.mkpath(str(copy.parent))
                self.copy_file(file, str(copy))

    def get_source_files(self) -> list[str]:
        """Lists the added files for source distributions."""
        return [*super().get_source_files(), *STARTUP, *mim_files()]


version = re.search(r'__version__ = "(.+)"', (here / "xcit_dense/__init__.py").read_text())[1]

# MMDetection needs the Python parts of mmcv. The compiled operators of mmcv are optional: operators of torchvision take
# their place.
# None of the MM libraries is required without an extra, because pip would overwrite a compiled mmcv of the user.
# The tests run with the versions in requirements/*.lock. The upper bounds are the next releases that may break
# interfaces.
mm = [
    "onedl-mmengine>=0.10.8,<0.11",
    "onedl-mmcv>=2.3,<2.4",
    "onedl-mmdetection>=3.4,<4",
    "onedl-mmsegmentation>=1.3,<2",
]
openmmlab = [
    "mmengine>=0.10.4,<0.11",
    "mmcv-lite>=2.1,<2.2",  # mmdet 3.3 refuses mmcv 2.2
    "mmdet>=3.3,<4",
    "mmsegmentation>=1.2.2,<2",
    "ftfy",  # mmsegmentation imports ftfy and regex, and does not require them
    "regex",
]
# What predict needs to read videos, and to draw and write what it found.
predict = [
    "av>=12",  # 17.1 is the last with wheels for Python 3.10
    "matplotlib",
    "pillow",
    "pycocotools",
]
mm_common = [*predict, "ijson>=3.2", "shapely"]
# OpenCV and Pillow do not read TIFFs of many bands. tifffile needs imagecodecs for LZW and other compressions.
bands = ["imagecodecs", "tifffile>=2023.1.23"]
# What reads and writes images of any size by windows. tifffile reads tiles through zarr: its releases for Python 3.10
# need zarr 2, and its later releases need zarr 3.
large = [
    *bands,
    "rasterio>=1.4",
    "shapely",
    "zarr>=2.18,<3; python_version < '3.11'",
    "zarr>=3.0.8; python_version >= '3.11'",
]
# Slides of microscopes. openslide-bin is the library itself.
slides = ["openslide-bin", "openslide-python>=1.3"]
# What exports, servers and other libraries need. Each is imported only by its own module.
export = [
    "onnx>=1.17",
    "onnxruntime>=1.20",
    "onnxscript>=0.5",
    "opencv-python-headless<4.13",  # the bound of imaug, which the MM libraries require
    *predict,
]
openvino = ["openvino>=2025.0"]
serve = ["fastapi>=0.115", "python-multipart>=0.0.18", "uvicorn>=0.30"]
smp = ["segmentation-models-pytorch>=0.5"]
transformers = ["transformers>=5.0"]
lightning = ["lightning>=2.5"]
supervision = ["supervision>=0.25"]
docs = ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"]
dev = [
    "hypothesis>=6",
    "import-linter>=2",
    "mypy>=1.10",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff>=0.6",
    "tensorboard>=2.15",
    "tifffile>=2023.1.23",
]

setup(
    name="xcit_dense",
    version=version,
    description="XCiT for dense prediction: a backbone for MMDetection 3.x and MMSegmentation 1.x",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # Tried: the lock and all tests on 3.11; the lock and a sample of the fast tests on 3.13. 3.14 was not tried: the
    # imaug that onedl-mmdetection 3.5 requires has no release for it, and mmcv calls pkgutil.find_loader, which 3.14
    # removes.
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["xcit_dense", "xcit_dense.*"]),
    cmdclass={"build_py": Build},
    package_data={"xcit_dense": ["py.typed"]},
    entry_points={"console_scripts": ["xcit-dense = xcit_dense.cli.main:main"]},
    # Tried: the versions in requirements/*.lock (torch 2.11), and the newest of November 2026 (torch 2.14.1).
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "timm>=1.0.3",
        "huggingface_hub>=0.30",
        "numpy>=1.24",
        "safetensors>=0.4",
        "packaging>=22",
    ],
    extras_require={
        "mm": mm + mm_common,
        "openmmlab": openmmlab + mm_common,
        "bands": bands,
        "large": large,
        "slides": slides,
        "export": export,
        "openvino": openvino,
        "serve": serve,
        "smp": smp,
        "transformers": transformers,
        "lightning": lightning,
        "supervision": supervision,
        "docs": docs,
        "dev": dev,
    },
    classifiers=[
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
