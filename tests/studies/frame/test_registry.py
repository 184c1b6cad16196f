"""Every study of the registry can be loaded, explains its settings, and has a quick form."""

import pytest

from calo4pqvae.errors import ConfigError
from calo4pqvae.studies.frame.registry import STUDIES, load_study

PLAIN_NAMES = {"batch_size", "learning_rate", "n_chains", "n_records"}


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_what_its_name_says(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert len(study.title) > 20
    assert study.settings.__doc__
    unexplained = {key for key, field in study.settings.model_fields.items() if not field.description}
    assert unexplained <= PLAIN_NAMES


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_a_full_and_a_quick_form(name: str) -> None:
    study = load_study(name)
    full, quick = study.configure(), study.configure(quick=True)
    assert full != quick
    assert full == study.settings()
    assert study.command(quick, 1).startswith(f"calo4pqvae study {name}")


def test_an_unknown_study_has_a_nearest_one() -> None:
    with pytest.raises(ConfigError, match="there is no study 'relaxtion': the nearest one is 'relaxation'"):
        load_study("relaxtion")
