//! The macro behind the table of families.

/// Declares [`Metrics`](super::Metrics) from lines `name: Type[labels](buckets) = "help"`. The name of a family is that of its field
/// with `switchboard_` before it.
macro_rules! families {
    ($($name:ident: $($type:ident)::+ $([$($label:ident),+])? $(($buckets:expr))? = $help:literal,)+) => {
        /// The families, as `docs/metrics.md` has them: name, type, labels and help.
        #[cfg(test)]
        const FAMILIES: &[(&str, &str, &str, &str)] = &[$(
            (concat!("switchboard_", stringify!($name)), stringify!($($type)::+), concat!("" $($(, " ", stringify!($label))+)?), $help),
        )+];

        /// All families; see [`METRICS`].
        pub struct Metrics {
            registry: prometheus::Registry,
            $(#[doc = $help] pub $name: $($type)::+,)+
        }

        impl Metrics {
            // names, labels and buckets are constants, and a test makes all families
            #[allow(clippy::expect_used)]
            fn registered() -> Self {
                let registry = prometheus::Registry::new_custom(Some("switchboard".to_owned()), None)
                    .expect("the prefix is a name");
                Self {
                    $($name: {
                        let family = families!(@new $($type)::+, stringify!($name), $help $(, [$(stringify!($label)),+])? $(; $buckets)?)
                            .expect("a family of the table");
                        registry.register(Box::new(family.clone())).expect("no two families have one name");
                        family
                    },)+
                    registry,
                }
            }
        }
    };
    (@new Histogram, $name:expr, $help:literal; $buckets:expr) => {
        prometheus::Histogram::with_opts(prometheus::HistogramOpts::new($name, $help).buckets($buckets.to_vec()))
    };
    (@new HistogramVec, $name:expr, $help:literal, [$($label:expr),+]; $buckets:expr) => {
        prometheus::HistogramVec::new(prometheus::HistogramOpts::new($name, $help).buckets($buckets.to_vec()), &[$($label),+])
    };
    (@new $($type:ident)::+, $name:expr, $help:literal, [$($label:expr),+]) => {
        <$($type)::+>::new(prometheus::Opts::new($name, $help), &[$($label),+])
    };
    (@new $($type:ident)::+, $name:expr, $help:literal) => {
        <$($type)::+>::new($name, $help)
    };
}
