//! Whatever bytes a request is made of, there is an answer: no panic, no hang.

use dray_api::AnyRequest;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const REQUESTS: [&str; 3] = [
    r#"{"jsonrpc":"2.0","id":1,"method":"port.show","params":{"connect":true,"name":"web"}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"bridge.add","params":{"name":"b","ports":[{"port":"a","vlan":1}],"vni":4}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"config.apply","params":{"file":{"name":"f","text":"[fdb]\nsize = 1"}}}"#,
];

const PIECES: [&[u8]; 12] =
    [b"\0", b"\"", b"\\", b",", b"{", b"[[[[[[[[", b"}", b"-1", b"99999999999999999999", b"null", b"\xc3", b"\xff"];

proptest! {
    #[test]
    fn mutated_requests(
        request in select(&REQUESTS[..]),
        edits in prop::collection::vec((any::<Index>(), 0..6_usize, select(&PIECES[..])), 1..5),
    ) {
        let mut bytes = request.as_bytes().to_vec();
        for (at, removed, piece) in edits {
            let at = at.index(bytes.len() + 1);
            let end = (at + removed).min(bytes.len());
            bytes.splice(at..end, piece.iter().copied());
        }
        let (id, request) = AnyRequest::decode(&bytes);
        // What is understood is understood again.
        if let Ok(request) = request {
            prop_assert!(!id.is_null());
            prop_assert_eq!(AnyRequest::decode(request.encode(1).as_bytes()).1, Ok(request));
        }
    }
}
