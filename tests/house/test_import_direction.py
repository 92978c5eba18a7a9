"""Who may import whom. The contracts stand in pyproject.toml, under [tool.importlinter]."""

from house.project import ROOT
from importlinter.cli import lint_imports


def test_dependencies_point_one_way_and_drivers_stay_in_their_backend(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)  # would silence the loggers of all other tests
    broken = lint_imports(config_filename="pyproject.toml", no_cache=True, no_logo=True)
    assert not broken, capsys.readouterr().out
