"""Fashion-MNIST: pictures of clothing."""

from datamodules.mnist import MNIST


class FashionMNIST(MNIST):
    """60,000 training and 10,000 test images of 28x28 grey pixels in 10 classes, in `FashionMNIST/raw` as in MNIST.

    Source: H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms", 2017. The authors chose the test images at random, equally many of each class.
    """

    class_names = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    origin = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
