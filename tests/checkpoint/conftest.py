from tests.fastdisk import tmp_path

__all__ = ["tmp_path"]
