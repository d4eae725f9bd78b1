"""The HTTP door: parse, ask, format. It keeps nothing and decides nothing; any replica may vanish."""
