"""Generators (torch): any module as a seeded map, the zoo, training, and the estimate of the equivalent Gaussian model."""

from gaussequiv.generators.datasets import Dataset as Dataset
from gaussequiv.generators.datasets import dataset as dataset
from gaussequiv.generators.estimation import estimate as estimate
from gaussequiv.generators.features import Features as Features
from gaussequiv.generators.features import first_layer as first_layer
from gaussequiv.generators.features import measure_teacher as measure_teacher
from gaussequiv.generators.features import on_inputs_of as on_inputs_of
from gaussequiv.generators.features import random_features as random_features
from gaussequiv.generators.flows import RealNVP as RealNVP
from gaussequiv.generators.generator import Generator as Generator
from gaussequiv.generators.random_matrices import gaussian_matrix as gaussian_matrix
from gaussequiv.generators.random_matrices import matrices as matrices
from gaussequiv.generators.random_matrices import matrix as matrix
from gaussequiv.generators.zoo import DCGAN as DCGAN
from gaussequiv.generators.zoo import Decoder as Decoder
from gaussequiv.generators.zoo import activation as activation
from gaussequiv.generators.zoo import card as card
from gaussequiv.generators.zoo import dcgan as dcgan
from gaussequiv.generators.zoo import deep as deep
from gaussequiv.generators.zoo import deep_random as deep_random
from gaussequiv.generators.zoo import load as load
from gaussequiv.generators.zoo import realnvp as realnvp
from gaussequiv.generators.zoo import single_layer as single_layer
from gaussequiv.generators.zoo import squashed as squashed
from gaussequiv.generators.zoo import vae as vae
