"""Simulation (torch): the real training, on samples of a generator or of its Gaussian twin."""

from gaussequiv.simulation.online import simulate as simulate
from gaussequiv.simulation.online import simulate_many as simulate_many
