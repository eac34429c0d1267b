//! The log from outside: what it promises, asked of real files and of a disk that loses what it may lose.

mod basics;
mod common;
mod crash;
mod oracle;
