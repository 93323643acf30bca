"""What are the samples of ImageNet-1k, from the folders `train` and `val`?"""

from snp.data.base import Part
from snp.data.class_folders import ClassImage
from snp.data.image_folder import ImageFolder


class ImageNet(ImageFolder):
    """The 1000 classes of ILSVRC 2012, or some of them: class folders are named by WordNet ids such as n01440764.

    Args:
        root: the folder (or plain tar file) with `train` and `val`.
        batch_size: images per batch and process.
        num_workers: processes that load images.
        image_size: height and width in pixels, None for the network's own.
        val_fraction: see `SampleData`: at most 5,000 of the images in `train`, while `val` is for testing.
    """

    def __init__(
        self,
        root: str | None,
        batch_size: int = 64,
        num_workers: int = 8,
        image_size: int | None = None,
        val_fraction: float = 0.1,
    ) -> None:
        sizes = (batch_size, num_workers, image_size)
        super().__init__(root, *sizes, classes="imagenet-1k", name="imagenet", val_fraction=val_fraction)

    def parts(self) -> dict[Part | None, list[ClassImage]]:
        """The images of `train` and `val`.

        Raises:
            FileNotFoundError: the root is not there.
            ValueError: no root, or neither of the two folders in it.
        """
        parts = super().parts()
        if None in parts:
            raise ValueError(
                f"data.root={self.root}: ImageNet has the folders train and val; for other layouts choose "
                "data=image_folder with data.classes=imagenet-1k"
            )
        return parts
