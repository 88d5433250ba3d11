//! A gate before what a worker uses and its port's thread changes.
#![allow(unsafe_code)]
