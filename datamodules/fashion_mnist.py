"""Fashion-MNIST: articles of clothing."""

from datamodules.mnist import MNIST


class FashionMNIST(MNIST):
    """60,000 training and 10,000 test pictures of 28x28 pixels, 10 classes, in `FashionMNIST/raw` in MNIST's format.

    Source: H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms", 2017, who chose the test split at random, every class alike.
    """

    class_names = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    origin = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
