"""Where clips come from. A new source is one function and one line in `SOURCES`."""

from shards.sources.base import Item, Listing, RawClip, RawFrame, SourceKind, SourceOptions
from shards.sources.frames import list_frames
from shards.sources.moving_digits import list_moving_digits
from shards.sources.moving_mnist import list_moving_mnist
from shards.sources.paired import list_paired
from shards.sources.photo_pans import list_photo_pans
from shards.sources.pictures import PHOTOS, list_folder, list_photos
from shards.sources.video import list_video
from shards.sources.vimeo import list_septuplets, list_triplets

__all__ = ["PHOTOS", "SOURCES", "Item", "Listing", "RawClip", "RawFrame", "SourceKind", "SourceOptions"]

SOURCES: dict[str, SourceKind] = {
    "folder": SourceKind(
        list_folder,
        "every picture below a folder, each for itself (such as DIV2K)",
        takes_path=True,
        layout="Folders of png, jpg, webp, tif or bmp pictures, at any depth. Top folders train, val and "
        "test give the "
        "splits, as do DIV2K_train_HR and DIV2K_valid_HR.",
    ),
    "frames": SourceKind(
        list_frames,
        "folders of video frames (such as REDS), in clips of consecutive frames",
        takes_path=True,
        layout="train/000/00000000.png, train/000/00000001.png ...: each folder that directly holds at least "
        "two pictures "
        "is a sequence, at any depth. Numbers in the file names give the order; no clip spans a missing one.",
    ),
    "paired": SourceKind(
        list_paired,
        "pictures or sequences with low-resolution partners that are given",
        takes_path=True,
        layout="HR/0001.png and LR/0001.png (or 0001x4.png), or GT and LQ, target and low_resolution, "
        "DIV2K_train_HR and "
        "DIV2K_train_LR_bicubic/X4, train_sharp and train_sharp_bicubic/X4; folders below them are "
        "sequences.",
    ),
    "video": SourceKind(
        list_video,
        "video files, in clips of consecutive frames that no cut divides",
        takes_path=True,
        layout="A file, or folders of them at any depth: mp4, m4v, mov, mkv, webm, avi.",
    ),
    "vimeo-septuplet": SourceKind(
        list_septuplets,
        "Vimeo-90K, clips of seven frames",
        takes_path=True,
        layout="sequences/00001/0001/im1.png ... im7.png with sep_trainlist.txt and sep_testlist.txt, or a "
        "published test "
        "set: target/ (and low_resolution/) with sep_testlist.txt.",
    ),
    "vimeo-triplet": SourceKind(
        list_triplets,
        "Vimeo-90K, clips of three frames",
        takes_path=True,
        layout="sequences/00001/0001/im1.png ... im3.png with tri_trainlist.txt and tri_testlist.txt.",
    ),
    "moving-mnist": SourceKind(
        list_moving_mnist,
        "the published Moving MNIST, 10 000 sequences of 20 frames",
        takes_path=True,
        layout="mnist_test_seq.npy, or the folder it is in.",
    ),
    "moving-digits": SourceKind(
        list_moving_digits,
        "sequences like Moving MNIST, made from real digits",
        takes_path=True,
        layout="train-images-idx3-ubyte of MNIST (also as .gz), or the folder it is in; left out: the digits "
        "that ship "
        "inside scikit-learn.",
        path_is_optional=True,
    ),
    "photos": SourceKind(
        list_photos,
        "photographs that ship inside scikit-image, with fixed splits",
        takes_path=False,
        layout="No files are needed.",
    ),
    "photo-pans": SourceKind(
        list_photo_pans,
        "clips of a camera that moves over those photographs: real pictures, made motion",
        takes_path=False,
        layout="No files are needed.",
    ),
}
