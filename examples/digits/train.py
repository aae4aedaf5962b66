"""Trains a network on data/ and writes checkpoint/model.joblib and metrics/metrics.json."""

import argparse
import json
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier

BATCH = 64
CHECKPOINT = Path("checkpoint")
METRICS = Path("metrics")


def read(name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(Path("data") / f"{name}.npz") as part:
        return part["images"], part["labels"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=0.002)
    options = parser.parse_args()

    images, labels = read("train")
    test_images, test_labels = read("test")
    classes = np.unique(labels)
    model = MLPClassifier(hidden_layer_sizes=(64,), learning_rate_init=options.lr, random_state=0)
    order = np.random.default_rng(0)
    CHECKPOINT.mkdir(exist_ok=True)
    METRICS.mkdir(exist_ok=True)

    history = []
    for epoch in range(1, options.epochs + 1):
        started = time.perf_counter()
        for batch in np.array_split(order.permutation(len(labels)), len(labels) // BATCH):
            model.partial_fit(images[batch], labels[batch], classes=classes)
        loss = float(log_loss(labels, model.predict_proba(images), labels=classes))
        accuracy = float(model.score(test_images, test_labels))
        seconds = time.perf_counter() - started
        print(
            f"epoch {epoch}/{options.epochs}  loss {loss:.4f}  accuracy {accuracy:.4f}  "
            f"{seconds:.2f} s",
            flush=True,
        )
        history.append({"epoch": epoch, "loss": loss, "accuracy": accuracy})
        joblib.dump(model, CHECKPOINT / "model.joblib")

    result = {"epochs": options.epochs, "lr": options.lr, "history": history}
    (METRICS / "metrics.json").write_text(json.dumps(result, indent=2) + "\n")
    if history:
        print(f"accuracy {history[-1]['accuracy']:.4f} on {len(test_labels)} images never seen")


if __name__ == "__main__":
    main()
