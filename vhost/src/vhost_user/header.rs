//! The header before every frame (virtio 1.2, section 5.1.6).
