"""The distillation step of `benchmarks/step.py` in plain PyTorch, as PyTorch's distillation libraries write it."""

import functools
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Basic block of the CIFAR ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """CIFAR ResNet of depth 6 * blocks + 2."""

    def __init__(self, blocks: int, classes: int):
        super().__init__()
        layers, inputs = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
        for stage, width in enumerate((16, 32, 64)):
            for block in range(blocks):
                layers.append(Block(inputs, width, 2 if stage and not block else 1))
                inputs = width
        self.layers, self.classifier = nn.Sequential(*layers), nn.Linear(64, classes)

    def forward(self, x):
        return self.classifier(self.layers(x).mean((2, 3)))


class TorchStep:
    """Augmentation, teacher, student and update; every call waits for the device.

    Args:
        images: [N, 32, 32, 3] uint8; labels: [N].
        batch: images a step.
        channels_last: the memory format of weights and images.
        amp: forward passes and losses run under autocast to bfloat16.
        compiled: the networks are compiled by `torch.compile`; otherwise they run eagerly.
        device: "cpu" or "cuda".
    """

    def __init__(self, images, labels, batch, *, channels_last=False, amp=False, compiled=False, device="cpu"):
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        self.images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)
        self.labels = torch.from_numpy(labels.astype(np.int64)).to(device)
        self.batch, self.device, self.temperature = batch, device, 4.0
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        classes = int(labels.max()) + 1
        self.teacher_net = ResNet(9, classes).eval().to(device, memory_format=self.format)
        self.student_net = ResNet(3, classes).train().to(device, memory_format=self.format)
        if compiled:
            self.teacher_net, self.student_net = torch.compile(self.teacher_net), torch.compile(self.student_net)
        self.autocast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=amp)
        self.optimizer = torch.optim.SGD(
            self.student_net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=device == "cuda"
        )
        self.mean = torch.tensor([0.5071, 0.4867, 0.4408], device=device).view(1, 3, 1, 1)
        self.std = torch.tensor([0.2675, 0.2565, 0.2761], device=device).view(1, 3, 1, 1)
        self.view = self._batch()

    def _wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def augmentation(self):
        """Makes a random batch."""
        self._batch()
        self._wait()

    def _batch(self):
        """Returns views and labels: zero-padding by 4, crop, flip, normalisation, all on the whole batch at once."""
        b, device = self.batch, self.device
        index = torch.randint(len(self.labels), (b,), device=device)
        padded = functional.pad(self.images[index], (4, 4, 4, 4))
        top, left = torch.randint(9, (2, b, 1), device=device)
        flip = torch.rand(b, 1, device=device) < 0.5
        rows, columns = top + torch.arange(32, device=device), torch.arange(32, device=device).expand(b, 32)
        columns = left + torch.where(flip, 31 - columns, columns)
        example, channel = torch.arange(b, device=device)[:, None, None, None], torch.arange(3, device=device)
        view = padded[example, channel[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]]
        view = (view.float() / 255 - self.mean) / self.std
        return view.contiguous(memory_format=self.format), self.labels[index]

    def teacher(self):
        """Runs the teacher's forward pass."""
        with torch.no_grad(), self.autocast():
            self.teacher_net(self.view[0])
        self._wait()

    def student(self):
        """Runs the student's forward and backward pass on labels."""
        self.optimizer.zero_grad()
        with self.autocast():
            loss = functional.cross_entropy(self.student_net(self.view[0]), self.view[1])
        loss.backward()
        self._wait()

    def banked(self):
        """Does the whole step with the teacher, to compare with this library's step with a teacher bank."""
        self.step()

    def step(self):
        """Does one whole distillation step."""
        self._update()
        self._wait()

    def devices(self) -> str:
        """Returns the device's name."""
        return torch.cuda.get_device_name() if self.device == "cuda" else "cpu"

    def updates(self, count: int) -> float:
        """Returns the seconds of `count` queued steps."""
        start = time.perf_counter()
        for _ in range(count):
            self._update()
        self._wait()
        return time.perf_counter() - start

    def _update(self):
        image, label = self._batch()
        t = self.temperature
        with self.autocast():
            with torch.no_grad():
                soft = functional.log_softmax(self.teacher_net(image) / t, 1)
            logits = self.student_net(image)
            distilled = functional.kl_div(
                functional.log_softmax(logits / t, 1), soft, reduction="batchmean", log_target=True
            )
            loss = 0.1 * functional.cross_entropy(logits, label) + 0.9 * t * t * distilled
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
