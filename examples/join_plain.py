"""A plain training loop joins a population: the lines with `member` are all that is added."""

from digits import BATCH, accuracy, arguments, datasets, network
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.utils.data import DataLoader

from inarch import join


def main() -> None:
    options = arguments(__doc__)
    train, validation = datasets()
    model = network()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    with join(
        options.run, model, optimizer=optimizer, every=options.every, name=options.name, storage=options.storage
    ) as member:
        for _ in range(options.epochs):
            for images, labels in DataLoader(train, BATCH, shuffle=True):
                loss = cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                member.tell(loss=loss, examples=len(labels))
            member.tell(score=accuracy(model, validation))
            if member.should_stop:
                break
    print(f"accuracy {accuracy(model, validation):.3f}, {member}")


if __name__ == "__main__":
    main()
