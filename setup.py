"""Puts the ready studies of `studies/` into the wheel, beside the package; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithStudies(build_py):
    """An editable install reads `studies/` itself."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "dmr/ready_studies"
        self.mkpath(str(target))
        for file in sorted(Path("studies").glob("*.yaml")):
            self.copy_file(str(file), str(target / file.name))


setup(cmdclass={"build_py": BuildWithStudies})
