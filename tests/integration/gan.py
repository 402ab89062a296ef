"""A project as its users write it: a GAN with manual optimization and two optimizers, under LightningCLI."""

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.utils.data import DataLoader

import lightning_optreg.callbacks  # noqa: F401  # so that the YAML knows them by their short names


class GAN(LightningModule):
    def __init__(self, lr: float = 0.001):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
        self.lr = lr

    def train_dataloader(self):
        angles = torch.linspace(0, 6.28, 40)
        return DataLoader(torch.stack((angles.cos(), angles.sin()), 1), batch_size=10, shuffle=True)

    def training_step(self, batch, batch_idx):
        of_generator, of_discriminator = self.optimizers()
        real, fake = torch.ones(len(batch), 1), torch.zeros(len(batch), 1)
        loss = nn.functional.binary_cross_entropy_with_logits
        made = self.generator(torch.randn(len(batch), 4))
        of_discriminator.zero_grad()
        self.manual_backward(
            loss(self.discriminator(batch), real) + loss(self.discriminator(made.detach()), fake)
        )
        of_discriminator.step()
        of_generator.zero_grad()
        self.manual_backward(loss(self.discriminator(made), real))
        of_generator.step()

    def configure_optimizers(self):
        parts = (self.generator, self.discriminator)
        return [torch.optim.Adam(part.parameters(), lr=self.lr) for part in parts]


def main(args=None):
    return LightningCLI(GAN, args=args, save_config_callback=None)


if __name__ == "__main__":
    main()
