//! What a KVM can do, found out by trying.
