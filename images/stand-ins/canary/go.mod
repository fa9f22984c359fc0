module meshstrap.dev/lab/canary

go 1.26
