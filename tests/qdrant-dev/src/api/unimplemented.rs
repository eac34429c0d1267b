//! The generated traits have no default methods: this writes the ones that are not offered.

/// Calls that answer `Unimplemented`, as `async fn` looks once `async_trait` has rewritten it (it does not look into
/// macros).
macro_rules! unimplemented_calls {
    ($($call:ident($request:ty) -> $reply:ty;)*) => {$(
        fn $call<'this, 'async_trait>(
            &'this self,
            _: tonic::Request<$request>,
        ) -> std::pin::Pin<Box<
            dyn Future<Output = Result<tonic::Response<$reply>, tonic::Status>> + Send + 'async_trait,
        >>
        where
            'this: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(std::future::ready(Err($crate::errors::unsupported(stringify!($call)))))
        }
    )*};
}

pub(crate) use unimplemented_calls;
