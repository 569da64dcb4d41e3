"""
Train a small sparse autoencoder on the activations of a store.

    python examples/train_sparse_autoencoder.py demo.tistore 3

Prints, epoch by epoch, how much of the activations' variance it explains, and how many of its
features are active on a token. Memory stays the same whatever the store's size.
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader

from tistore.exchange.torch_data import ActivationDataset


class SparseAutoencoder(nn.Module):
    """Activations as a sum of few features out of many."""

    def __init__(self, hidden, n_features):
        super().__init__()
        self.encoder = nn.Linear(hidden, n_features)
        self.decoder = nn.Linear(n_features, hidden)
        with torch.no_grad():
            self.decoder.weight /= self.decoder.weight.norm(dim=0)
            self.encoder.weight.copy_(self.decoder.weight.T)

    def forward(self, activations):
        """Return the reconstruction, and the features: (row, hidden), (row, feature)."""
        features = torch.relu(self.encoder(activations - self.decoder.bias))
        return self.decoder(features), features


def train(store, layer, *, n_features=256, epochs=5, batch_tokens=512, penalty=3e-3, workers=0):
    """Train on every response token at a layer; gives the model and what it explains."""
    torch.manual_seed(0)
    dataset = ActivationDataset(store, layer=layer, is_response_only=True,
                                batch_tokens=batch_tokens)  # fmt: skip
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    sample = next(iter(loader))
    mean, scale = sample.mean(dim=0), sample.std()
    model = SparseAutoencoder(dataset.hidden, n_features)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    explained = 0.0
    for epoch in range(epochs):
        dataset.set_epoch(epoch)  # another order
        lost = total = active = 0.0
        for batch in loader:
            rows = (batch - mean) / scale
            rebuilt, features = model(rows)
            error = (rebuilt - rows).pow(2).sum()
            loss = error / len(rows) + penalty * features.abs().sum() / len(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            lost += error.item()
            total += rows.pow(2).sum().item()
            active += (features > 0).sum().item()
        explained = 1 - lost / total
        print(f"epoch {epoch}: {explained:.1%} explained, {active / len(dataset):.1f} active")
    return model, explained


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]))
