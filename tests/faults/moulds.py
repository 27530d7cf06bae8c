"""Many objects, no two alike, quickly: one is made, then its UIDs and some pixels are changed."""

import numpy as np
from pydicom import uid

from tests.dicom_files import make_ct_slice, make_dx, to_bytes

CT, DX = str(uid.CTImageStorage), str(uid.DigitalXRayImageStorageForPresentation)
ROOT_OF_UIDS = "1.2.826.0.1.3680043.10.1."  # and 20 digits
PREAMBLE_BYTES = 144  # with the group length of the file meta information


class Mould:
    """Objects of one class and size, each named by its number; `of_study` of them are a series.

    Explicit VR Little Endian. Two moulds of the same class make the same objects.
    """

    def __init__(self, sop_class: str, px: int, *, of_study: int = 1) -> None:
        self.sop_class = sop_class
        self._px, self._of_study = px, of_study
        self._kind = 1 if sop_class == DX else 2
        names = [self._uid(which, 0) for which in (1, 2, 3)]
        ramp = np.linspace(0, 3000, px * px).reshape(px, px).astype(np.uint16)
        ds = make_dx(ramp) if sop_class == DX else make_ct_slice(ramp.astype(int) - 1024)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid.UID(names[0])
        ds.StudyInstanceUID, ds.SeriesInstanceUID = names[1:]
        self._file = to_bytes(ds)
        self._begin = PREAMBLE_BYTES + int.from_bytes(self._file[140:144], "little")
        self._places = [_all_of(self._file, name.encode()) for name in names]
        self.pixel_bytes = 2 * px * px  # the end of each object
        self._pixels = len(self._file) - self.pixel_bytes

    def instance(self, number: int) -> str:
        """Return the SOP Instance UID of one object."""
        return self._uid(1, number)

    def data_set(self, number: int) -> bytes:
        """Return the object as it goes over the network."""
        return self.file(number)[self._begin :]

    def file(self, number: int) -> bytes:
        """Return the object as a Part 10 file."""
        data = bytearray(self._file)
        study = number // self._of_study
        for which, value in enumerate((number, study, study), 1):
            name = self._uid(which, value).encode()
            for place in self._places[which - 1]:
                data[place : place + len(name)] = name
        # A square at a place and of a brightness of its own.
        side = max(1, self._px // 8)
        flat = np.frombuffer(data, "<u2", self._px * self._px, self._pixels)
        picture = flat.reshape(self._px, self._px)
        top, left = (number * 7) % (self._px - side), (number * 13) % (self._px - side)
        picture[top : top + side, left : left + side] = 1000 + number % 3000
        return bytes(data)

    def _uid(self, which: int, number: int) -> str:
        return f"{ROOT_OF_UIDS}{self._kind}{which}{10**17 + number}"


def _all_of(data: bytes, name: bytes) -> list[int]:
    places, place = [], data.find(name)
    while place >= 0:
        places.append(place)
        place = data.find(name, place + 1)
    return places
