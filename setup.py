from setuptools import find_packages, setup

version: dict[str, str] = {}
with open("sb3_s2pg/version.py") as file:
    exec(file.read(), version)
with open("README.md", encoding="utf-8") as file:
    readme = file.read()

setup(
    name="sb3-s2pg",
    version=version["__version__"],
    description="Policies with memory for Stable-Baselines3, trained without backpropagation through time (S2PG)",
    long_description=readme,
    long_description_content_type="text/markdown",
    license="MIT",
    keywords="reinforcement-learning stable-baselines3 recurrent POMDP memory sac gymnasium pytorch",
    packages=find_packages(include=["sb3_s2pg", "sb3_s2pg.*"]),
    package_data={"sb3_s2pg": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=[
        "stable-baselines3>=2.2.1,<3",
        "gymnasium>=0.29.1",
        "torch>=2.4",  # fused Adam on the CPU
        "matplotlib",
    ],
    extras_require={
        # TensorBoard logs and the progress bar
        "extra": ["tensorboard", "tqdm", "rich"],
        # HalfCheetah and its relatives
        "mujoco": ["gymnasium[mujoco]"],
        # LunarLander; not gymnasium[box2d], which 0.29.1 compiles with swig
        "box2d": ["box2d", "pygame-ce"],
        # RecurrentPPO and RL Zoo's settings, which the examples compare with
        "examples": ["sb3-contrib", "rl_zoo3", "gymnasium[mujoco]", "tqdm", "rich"],
        "tests": [
            *("pytest", "tensorboard", "tqdm", "rich", "sb3-contrib", "rl_zoo3"),
            *("gymnasium[mujoco]", "box2d", "pygame-ce"),
        ],
        "dev": ["ruff", "mypy"],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "License :: OSI Approved :: MIT License",
    ],
)
