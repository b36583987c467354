"""CIFAR-100: small colour photographs of animals, plants and things."""

from typing import ClassVar

from datamodules.cifar10 import CIFAR10


class CIFAR100(CIFAR10):
    """50,000 training and 10,000 test images of 32x32 RGB pixels in 100 classes.

    The images are read from the original batches in `cifar-100-python` or, if this folder is missing, from image files
    such as `cifar100/train/apple/1.png`.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. The author chose the test
    images at random, 100 of each class.
    """

    class_names = (
        *("apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle"),
        *("bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle"),
        *("chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur"),
        *("dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard"),
        *("lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain"),
        *("mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck"),
        *("pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road"),
        *("rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake"),
        *("spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television"),
        *("tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf"),
        *("woman", "worm"),
    )
    batches: ClassVar = {"train": ["train"], "test": ["test"]}
    batches_folder = "cifar-100-python"
    label_key = "fine_labels"
