//! The mesh of a qmesh node.
