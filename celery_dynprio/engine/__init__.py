"""The tick: read, score, plan, move, report. It knows no broker."""
