"""Writes the digits that come with scikit-learn to data/, apart for training and testing."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

DATA = Path("data")


def main() -> None:
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(
        (images / 16.0).astype(np.float32), labels, test_size=0.25, random_state=0, stratify=labels
    )
    train_images, test_images, train_labels, test_labels = parts
    DATA.mkdir(exist_ok=True)
    np.savez(DATA / "train.npz", images=train_images, labels=train_labels)
    np.savez(DATA / "test.npz", images=test_images, labels=test_labels)
    print(f"wrote {len(train_labels)} images to train on and {len(test_labels)} to test with")


if __name__ == "__main__":
    main()
