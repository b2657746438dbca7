//! Decides what a node should look like.
//!
//! This crate is pure: it opens no file, asks no clock, runs no program and logs nothing. Bytes and facts go in;
//! a [`config::NodeConfig`], a [`plan::Plan`], a [`report::Failure`] or a [`verdict::State`] comes out. `clippy.toml` beside `Cargo.toml`
//! turns a slip into an error.

pub mod clouds;
pub mod config;
pub mod facts;
pub mod image;
pub mod intent;
pub mod kubernetes;
pub mod masking;
pub mod monitor;
pub mod os;
pub mod plan;
pub mod repair;
pub mod report;
pub mod resolver;
pub mod secret;
pub mod verdict;
