"""A student as a task of the training loop: its losses to HR and to the images of its teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...pipeline.stream.dataset import ShardDataset
from ..config import RunConfig
from ..diffusion.residual import to_pixels
from ..inference.upscaler import SuperResolver
from ..networks.student import Student
from ..objectives.one_step import Distance, checkerboard, chosen, in_second_phase, load_distance, one_step_loss
from ..training.tasks import StageTask


class Teacher:
    """The images that a student learns: the mean of samples, or the result of the RRDB."""

    def __init__(self, model: SuperResolver, samples: int) -> None:
        """
        Args:
            model: the teacher.
            samples: how many are averaged; 0: the RRDB's result.
        """
        self.model, self.samples = model, samples

    @torch.inference_mode()
    def images(self, lr: Tensor, positions: Tensor) -> Tensor:
        """LR [B, 3, h, w] in [-1, 1] -> images [B, 3, H, W] in [-1, 1]; the position of a sample seeds its noise."""
        if self.samples == 0:
            return self.model.rrdb(lr).clamp(-1, 1)
        pixels = (to_pixels(lr).cpu().numpy(), positions.tolist())
        made = [
            self.model.upscale(image.astype("float32") / 255, seed=position, num_samples=self.samples, tile=0)
            for image, position in zip(*pixels, strict=True)
        ]
        stacked = torch.stack([torch.from_numpy(image) for image in made]).permute(0, 3, 1, 2)
        return (stacked * 2 - 1).to(lr.device)


class StudentTask(StageTask):
    """The student learns HR and its teacher's images with L1; in the second phase a perceptual distance to HR is added."""

    name = "student"

    def __init__(
        self, data: ShardDataset, network: Student, teacher: SuperResolver, *, config: RunConfig, device: torch.device
    ) -> None:
        super().__init__(data, network, config, device=device)
        self.teacher = Teacher(teacher, config.student.samples)
        self.distance: Distance | None = None
        if config.loss.perceptual != "none":
            self.distance = load_distance(config.loss.perceptual, device)

    def make_batch(self, position: int, size: int) -> dict[str, Tensor]:
        """The samples; in the second phase with an entry `second_phase`, whose presence shows the phase without reading the device."""
        batch, train = super().make_batch(position, size), self.config.train
        if in_second_phase(position, batch=train.batch, steps=train.steps, loss=self.config.loss):
            batch["second_phase"] = torch.ones(size, dtype=torch.bool)
        return batch

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean |student(LR) - HR| + teacher_weight x mean |student(LR) - teacher(LR)| of the first samples, images in [-1, 1].

        The second phase adds `one_step_loss` on `loss.share` of the samples.
        """
        hr, lr = self.images(batch)
        with self.autocast():
            image = self.forward(lr)
        image = image.float()
        loss = self.weighted(batch, image, hr, kind="l1")
        settings, weights = self.config.student, self.config.loss
        taught = chosen(len(hr), settings.teacher_share) if settings.teacher_weight else []
        if taught:
            target = self.teacher.images(lr[taught], batch["position"][taught])
            loss = loss + settings.teacher_weight * F.l1_loss(image[taught], target)
        if "second_phase" in batch and self.distance is not None and weights.share:
            compared = chosen(len(hr), weights.share)
            loss = loss + one_step_loss(image[compared], hr[compared], self.distance, loss=weights)
            if weights.checkerboard:
                added = image[compared] - self.teacher.model.rrdb(lr[compared]).clamp(-1, 1)
                loss = loss + weights.checkerboard * checkerboard(added, period=self.config.scale)
        return loss
