"""The folder that an Android developer drops into an app: model with metadata, contract, labels, goldens and checksums."""

from mnv3_tf.export.bundle.check import check_bundle
from mnv3_tf.export.bundle.make import Bundle, BundleOptions, copy_app, make_bundle

__all__ = ["Bundle", "BundleOptions", "check_bundle", "copy_app", "make_bundle"]
