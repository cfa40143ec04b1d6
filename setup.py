from setuptools import find_packages, setup

version: dict[str, str] = {}
with open("sb3_s2pg/version.py") as file:
    exec(file.read(), version)
with open("README.md", encoding="utf-8") as file:
    readme = file.read()

EXTRA = ["tensorboard", "tqdm", "rich"]
MUJOCO = ["gymnasium[mujoco]"]
# Not gymnasium[box2d], which 0.29.1 compiles with swig
BOX2D = ["box2d", "pygame-ce"]
# RL Zoo imports requests and does not ask for it; the plots of its older versions do not work with pandas 3
ZOO = ["rl_zoo3[plots]", "pandas<3", "sb3-contrib", "requests", "moviepy", "pygame-ce", *EXTRA]
# What imitation imports for demonstrations, beside EXTRA. It asks for more, and for stable-baselines3 2.2: on a newer one it
# has to be installed without its dependencies, and so it is for the tests
IMITATION_IMPORTS = ["datasets", "jsonpickle"]
# Settings and opponents, parallel runs, statistics; arch, which rliable imports, does not start with pandas 3
BENCHMARK = ["rl_zoo3", "sb3-contrib", "requests", "joblib>=1.4", "rliable>=1.2", "pandas<3"]
DASK = ["dask", "distributed"]

setup(
    name="sb3-s2pg",
    version=version["__version__"],
    description="Policies with memory for Stable-Baselines3, trained without backpropagation through time (S2PG)",
    long_description=readme,
    long_description_content_type="text/markdown",
    license="MIT",
    keywords="reinforcement-learning stable-baselines3 recurrent POMDP memory sac gymnasium pytorch",
    # The hyperparameter files lie beside the package in a checkout, and inside of it in a wheel
    packages=[*find_packages(include=["sb3_s2pg", "sb3_s2pg.*"]), "sb3_s2pg.zoo_configs"],
    package_dir={"sb3_s2pg.zoo_configs": "zoo_configs"},
    package_data={"sb3_s2pg": ["py.typed"], "sb3_s2pg.zoo_configs": ["*.yml"]},
    python_requires=">=3.10",
    install_requires=[
        "stable-baselines3>=2.2.1,<3",
        "gymnasium>=0.29.1",
        "torch>=2.4",  # fused Adam on the CPU
        "matplotlib",
    ],
    extras_require={
        # TensorBoard logs and the progress bar
        "extra": EXTRA,
        # HalfCheetah and its relatives
        "mujoco": MUJOCO,
        # LunarLander
        "box2d": BOX2D,
        # RecurrentPPO and RL Zoo's settings, which the examples compare with
        "examples": ["sb3-contrib", "rl_zoo3", *MUJOCO, *EXTRA],
        # The front door to RL Zoo: training, enjoying, videos
        "zoo": ZOO,
        # S2PGTRPO
        "trpo": ["sb3-contrib"],
        # GAIL, AIRL
        "imitation": ["imitation==1.0.1"],
        # python -m sb3_s2pg.benchmark
        "benchmark": BENCHMARK,
        # ... on a Dask cluster
        "dask": DASK,
        "tests": [*ZOO, *MUJOCO, *BOX2D, *IMITATION_IMPORTS, *BENCHMARK, *DASK, "pytest"],
        "dev": ["ruff", "mypy"],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "License :: OSI Approved :: MIT License",
    ],
)
