"""What tests share, to be imported: ``from tests.helpers.models import tiny_xcit``."""
