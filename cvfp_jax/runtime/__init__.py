"""Files, signals, clocks and the compiler."""
