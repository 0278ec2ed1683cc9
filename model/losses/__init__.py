"""Perceptual distances as frozen, differentiable networks: LPIPS (AlexNet, VGG16) and DISTS, with their published weights."""

from .dists import DISTS as DISTS
from .lpips import LPIPS as LPIPS
from .perceptual import METRICS as METRICS
from .perceptual import PerceptualMetric as PerceptualMetric
from .perceptual import load_perceptual as load_perceptual
from .perceptual import perceptual_distance as perceptual_distance
