"""What it costs to read images: datasets in memory and streamed ones, beside torchvision."""
