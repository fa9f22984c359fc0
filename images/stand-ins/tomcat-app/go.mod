module meshstrap.dev/lab/tomcat-app

go 1.26
