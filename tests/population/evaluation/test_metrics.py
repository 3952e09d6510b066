"""Names and forms of metrics."""

from __future__ import annotations

import pytest

from inarch.population.errors import ConfigError
from inarch.population.evaluation.metrics import Metric


@pytest.mark.parametrize("form", ["{:d}", "{:q}", "{1}", "{name}", "{"])
def test_form_that_cannot_show_a_number_is_refused(form: str) -> None:
    with pytest.raises(ConfigError, match="the form of metric error cannot show a number"):
        Metric(name="error", form=form)
    assert Metric(name="error", form="{:.1%}").text(0.25) == "25.0%"
