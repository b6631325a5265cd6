"""The public functions with their checks; fastbn.functional tells what holds for all of them."""
