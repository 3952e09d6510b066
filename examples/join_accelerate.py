"""A loop with Hugging Face accelerate joins a population. The wrappers of model and optimizer are taken off by join."""

from accelerate import Accelerator
from digits import BATCH, accuracy, arguments, datasets, network
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.utils.data import DataLoader

from inarch import join


def main() -> None:
    options = arguments(__doc__)
    train, validation = datasets()
    accelerator = Accelerator(cpu=True)
    net = network()
    model, optimizer, loader = accelerator.prepare(
        net, AdamW(net.parameters(), lr=3e-3), DataLoader(train, BATCH, shuffle=True)
    )
    with join(
        options.run, model, optimizer=optimizer, every=options.every, name=options.name, storage=options.storage
    ) as member:
        for _ in range(options.epochs):
            for images, labels in loader:
                loss = cross_entropy(model(images), labels)
                optimizer.zero_grad()
                accelerator.backward(loss)
                optimizer.step()
                member.tell(loss=loss, examples=len(labels))
            member.tell(score=accuracy(model, validation))
            if member.should_stop:
                break
    print(f"accuracy {accuracy(model, validation):.3f}, {member}")


if __name__ == "__main__":
    main()
