"""What intake decides, as pure functions: ids, time and state come in, frozen values go out."""
