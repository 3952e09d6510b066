"""What a topology does in populations of up to 10,000 networks: gossip and training on a quadratic, without Ray."""
