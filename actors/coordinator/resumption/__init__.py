"""How runs continue: a run that is resumed, and a coordinator that Ray has restarted."""
