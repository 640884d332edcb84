//! TCP backend: direct receive into registered memory.
