"""JSON for other programs than Python."""

from __future__ import annotations

import json
import math

from inarch.population.persistence.json_files import strict


def test_numbers_that_json_does_not_have_become_null() -> None:
    content = {"loss": math.nan, "rows": [{"score": math.inf, "interval": 3}, (0.5, -math.inf)], "name": "nan"}
    text = json.dumps(strict(content), allow_nan=False)
    assert json.loads(text) == {"loss": None, "rows": [{"score": None, "interval": 3}, [0.5, None]], "name": "nan"}
