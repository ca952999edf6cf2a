"""The ground: Gaussian averages, activations and solvers, with no notion of learning."""
