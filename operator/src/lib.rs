//! Reconciles MeshSync objects into agents, rights and brokers.
